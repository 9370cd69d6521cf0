"""The engine: plan, state, step, loop. It knows no task, no run folder and no picture."""
