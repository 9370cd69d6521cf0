"""Tests of the configuration; a package, so that they share the options of a small task."""
