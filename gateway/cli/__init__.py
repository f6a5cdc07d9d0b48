"""What `roundhouse` on a command line does: start a gateway here, or ask and steer one that runs.

The law: each command is a file that is imported only when it is called, so that `serve` starts without what the others
need. People read stdout; what merely passes by (progress, logs, errors) goes to stderr.
"""
