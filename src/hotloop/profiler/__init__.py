"""Where a step's time goes, against what this machine can do: measured on the real step, told with its evidence.

`profile.py` would shadow Python's own module of that name, hence `profiler`. `marks` times the phases of a step, `work`
counts what it computes and moves, `operators` asks torch's profiler, `verdict` judges, `report` words it.
"""
