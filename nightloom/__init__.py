"""What each step of a night does: sources, documents, nodes, embeddings, index, evaluation. Knows no Prefect."""
