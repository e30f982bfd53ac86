"""python compare.py FOLDER [FOLDER ...] [baseline=...] [out=...] [level=0.95]; python compare.py --help says more."""

from ddpm_lab.cli.start import compare

if __name__ == "__main__":
    compare()
