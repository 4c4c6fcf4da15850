"""The plan: recipe and model -> what happens to every parameter."""
