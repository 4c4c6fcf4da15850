"""What the steps that train share: the loops, and what a student mimics."""
