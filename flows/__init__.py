"""The chains of tasks that Prefect runs, and the command line around them."""
