"""Data on its way to the step: sources, samplers, loaders. Nothing here knows a model."""
