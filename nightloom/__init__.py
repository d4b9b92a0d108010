"""What each step of a night does: sources, documents, nodes, embeddings, the index, its evaluation. Knows no Prefect."""
