"""`python -m clozerec_cli`, for places where the console script is not on the path."""

from clozerec_cli.main import main

main()
