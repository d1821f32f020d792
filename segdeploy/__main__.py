"""``python -m segdeploy``: the command line, also where the script is not on the path."""

from segdeploy.cli.main import main

main()
