"""Classes of short texts: one label or several to a text, a pretrained encoder or a small one of its own."""
