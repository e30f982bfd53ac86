"""python dashboard.py project=PROJECT group=GROUP [entity=...] [name=...] [out=FILE]; python dashboard.py --help says more."""

from ddpm_lab.cli.start import dashboard

if __name__ == "__main__":
    dashboard()
