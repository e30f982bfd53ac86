"""python evaluate.py ckpt=RUN [group=option ...] [key=value ...]; python evaluate.py --help lists them."""

from ddpm_lab.cli.start import evaluate

if __name__ == "__main__":
    evaluate()
