"""Many files in one process: which inputs become which outputs, run, recorded, resumed."""
