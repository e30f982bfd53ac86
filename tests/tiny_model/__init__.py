"""A second model, as a user would add one: code and yaml files outside of ddpm_lab."""
