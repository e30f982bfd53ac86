"""python train.py [group=option ...] [key=value ...]; python train.py --help lists them."""

from ddpm_lab.cli.train import main

if __name__ == "__main__":
    main()
