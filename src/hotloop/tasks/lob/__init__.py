"""Price moves from limit order books: DeepLOB on windows of the book, gathered from rows that are held once."""
