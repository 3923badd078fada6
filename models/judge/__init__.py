"""The strict judge: requests with held-out names, tools and wording, and the floor that a model must beat."""
