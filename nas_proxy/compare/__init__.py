"""The paper's table: signals side by side, with what each costs, on one sample of architectures."""
