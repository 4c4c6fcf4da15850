"""What the compressed layers compute before their activations, made like that of the original."""
