"""python sample.py ckpt=RUN [group=option ...] [key=value ...]; python sample.py --help lists them."""

from ddpm_lab.cli.start import sample

if __name__ == "__main__":
    sample()
