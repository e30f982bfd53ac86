"""python dashboard.py project=PROJECT group=GROUP [entity=...] [name=...] [out=FILE]; python dashboard.py --help says more."""

from ddpm_lab.cli.dashboard import main

if __name__ == "__main__":
    main()
