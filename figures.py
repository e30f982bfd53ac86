"""python figures.py [ckpt=RUN] figure=NAME [figure.key=value ...]; python figures.py --help lists them."""

from ddpm_lab.cli.start import figures

if __name__ == "__main__":
    figures()
