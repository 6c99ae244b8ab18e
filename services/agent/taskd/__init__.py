"""taskd: one small process per node that holds the process driver's tasks, so that no restart of ours touches a task.

It is a program of its own: standard library only, no asyncio, nothing of this tree but this folder. The process driver starts it
by the path of ``__main__.py`` and talks to it through ``drivers/taskd_client.py``. See README.md beside this file.
"""
