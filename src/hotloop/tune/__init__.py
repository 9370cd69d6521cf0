"""What is measured before a run so that it need not be guessed: the micro-batch that pays, settings that fit a budget.

Nothing here trains. Trials run in fresh processes (or on a copy of the model where only this process can build it), so
weights, random state and data order of the training that follows are what they would have been without a search.
"""
