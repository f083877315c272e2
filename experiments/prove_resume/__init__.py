"""Proof that a run which is killed again and again is the run that nobody disturbed.

__main__.py     the command: the undisturbed run, the killed one, the verdict
kills.py        when a process is killed, and with which signal
compare.py      what a run leaves, and how two differ
"""
