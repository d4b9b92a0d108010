"""What each step of a night does: sources, documents, nodes, embeddings, index, evaluation. Knows no Prefect.

Only its parts `nightloom.flows` and `nightloom.tasks` know Prefect; in the repository these are links to flows/ and
tasks/.
"""
