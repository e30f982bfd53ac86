"""python train.py [group=option ...] [key=value ...]; python train.py --help lists them."""

from ddpm_lab.cli.start import train

if __name__ == "__main__":
    train()
