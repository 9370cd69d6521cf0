"""The `gpt` workload: a character or byte-pair language model on a text. Importing it loads nothing heavy."""
