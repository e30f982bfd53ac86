"""A second model, as a user would add one: code and yaml files outside of ddpm_lab."""

TARGETS = "tiny_model.,torch.optim.AdamW"
"""DDPM_LAB_TARGETS, where its yaml files are not given by --config-dir."""
