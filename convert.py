"""python convert.py from=PATH [key=value ...]; python convert.py --help lists them."""

from ddpm_lab.cli.start import convert

if __name__ == "__main__":
    convert()
