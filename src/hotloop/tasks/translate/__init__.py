"""The encoder-decoder model for short pairs. Importing this loads nothing heavy."""
