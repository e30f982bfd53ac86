"""python compare.py FOLDER [FOLDER ...] [baseline=...] [out=...] [level=0.95]; python compare.py --help says more."""

from ddpm_lab.cli.compare import main

if __name__ == "__main__":
    main()
