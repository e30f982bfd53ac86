"""python evaluate.py ckpt=RUN [group=option ...] [key=value ...]; python evaluate.py --help lists them."""

from ddpm_lab.cli.evaluate import main

if __name__ == "__main__":
    main()
