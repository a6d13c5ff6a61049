"""`wentu up`: the four services as child processes, watched, started again if they fail, and stopped in order.

services.py says what runs, ports.py where, data_folder.py on which data; child.py is one process, supervisor.py keeps
all of them running.
"""
