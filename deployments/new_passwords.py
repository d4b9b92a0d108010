"""Passwords for compose.yaml, drawn anew: `python deployments/new_passwords.py > deployments/.env`, once."""

import secrets

PASSWORDS = ("OBJECTS", "MILVUS_ROOT", "MILVUS_INDEXER", "MILVUS_READER", "POSTGRES")


def new_passwords() -> dict[str, str]:
    """Every variable that compose.yaml cannot do without; 48 hex digits need no quotes in an address."""
    users = {"OBJECTS_USER": "nightloom", "PREFECT_AUTH": f"admin:{secrets.token_hex(24)}"}
    return users | {f"{name}_PASSWORD": secrets.token_hex(24) for name in PASSWORDS}


if __name__ == "__main__":
    for name, value in new_passwords().items():
        print(f"{name}={value}")
