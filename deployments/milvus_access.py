"""The users of a Milvus that asks for passwords: `python deployments/milvus_access.py http://milvus:19530`.

Two roles, each with one user of the same name: `nightloom_indexer` for nights, which may do all that a night does and
nothing else, and `nightloom_reader` for those who ask, who cannot write, drop, or switch an alias. Passwords come from
the environment: MILVUS_ROOT_PASSWORD, MILVUS_INDEXER_PASSWORD, MILVUS_READER_PASSWORD. A root that still has the
password that everybody knows, or the one in MILVUS_FORMER_ROOT_PASSWORD, gets its own first. Run it as often as you
like: it adds what is missing, takes away what the roles no longer have, and changes the passwords that are others.
`--database NAME` grants the rights in that database; those in others stay, and it is made where there is none.
"""

import argparse
import os
import sys
from collections.abc import Mapping

import grpc
from pymilvus import MilvusClient, MilvusException

KNOWN_PASSWORD = "Milvus"  # noqa: S105  that of root in every new Milvus
CONNECT_SECONDS = 30
REFUSED = (MilvusException, grpc.RpcError)
"""The second, where the client takes up a connection on which the user was let in once."""

_LOOK = ("DescribeCollection", "DescribeAlias", "ListAliases")
_READ = ("Query", "Search", "IndexDetail", "GetLoadState", "Load")
_BUILD = ("CreateCollection", "DropCollection", "CreateAlias")
_WRITE = ("Upsert", "Delete", "Flush", "GetFlushState", "Release", "CreateIndex", "DropIndex")
ROLES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "nightloom_reader": {"Global": _LOOK, "Collection": _READ},
    "nightloom_indexer": {"Global": (*_LOOK, *_BUILD), "Collection": (*_READ, *_WRITE)},
}
"""Privileges by role and kind of object. They are over every collection of the database: generations have new names.
They are those that a night or a reader asks for, call by call, and no others."""


def open_as(user: str, uri: str, password: str, ca: str = "") -> MilvusClient:
    """A client of a user's.

    Raises:
        MilvusException: Milvus cannot be reached, or the user has another password.
    """
    certificates = {"server_pem_path": ca} if ca else {}
    return MilvusClient(uri, token=f"{user}:{password}", timeout=CONNECT_SECONDS, **certificates)


def open_as_root(uri: str, password: str, ca: str = "", former: str = KNOWN_PASSWORD) -> MilvusClient:
    """A client of root's, whose password is no longer the former one: that which everybody knows, or one of yours.

    Raises:
        MilvusException, grpc.RpcError: Milvus cannot be reached, or root has yet another password.
    """
    try:
        return open_as("root", uri, password, ca)
    except REFUSED:
        root = open_as("root", uri, former, ca)
        root.update_password("root", former, password)
        root.close()
    return open_as("root", uri, password, ca)


def give_access(client: MilvusClient, passwords: Mapping[str, str], database: str = "default") -> None:
    """Make the database, the roles, and their users where there are none, and let the roles have what they need.

    Args:
        client: Of root.
        passwords: By role; a user that is there already keeps the one it has, for `renew_passwords` to change.
        database: In which the rights are.
    """
    if database not in client.list_databases():
        client.create_database(database)
    for role, wanted in ROLES.items():
        if role not in client.list_roles():
            client.create_role(role)
        if role not in client.list_users():
            client.create_user(role, passwords[role])
        client.grant_role(role, role)
        pairs = {(kind, privilege) for kind, privileges in wanted.items() for privilege in privileges}
        granted = client.describe_role(role, db_name=database)["privileges"]
        present = {(one["object_type"], one["privilege"]) for one in granted}
        for kind, privilege in sorted(present - pairs):
            client.revoke_privilege(role, kind, privilege, "*", db_name=database)
        for kind, privilege in sorted(pairs - present):
            client.grant_privilege(role, kind, privilege, "*", db_name=database)


def renew_passwords(client: MilvusClient, passwords: Mapping[str, str], uri: str, ca: str = "") -> None:
    """Give each user its password where it has another; whoever comes with that one is refused from then on.

    Args:
        client: Of root.
        passwords: By role, whose user has the same name.
        uri: Of Milvus, where each password is tried.
        ca: PEM file of the authority that signed its certificate.
    """
    for role, password in passwords.items():
        try:
            open_as(role, uri, password, ca).close()
        except REFUSED:
            # Milvus changes a password only for who has the old one, root's rights or not.
            client.drop_user(role)
            client.create_user(role, password)
            client.grant_role(role, role)


def main() -> int:
    """Give access at the address on the command line; 1 where that fails."""
    parser = argparse.ArgumentParser(description="Make the users that Nightloom needs in Milvus.")
    parser.add_argument("uri", help="address of Milvus")
    parser.add_argument("--ca", default="", help="PEM file of the authority that signed its certificate")
    parser.add_argument("--database", default="default", help="in which the roles have their rights")
    arguments = parser.parse_args()
    try:
        passwords = {role: os.environ[f"MILVUS_{role.removeprefix('nightloom_').upper()}_PASSWORD"] for role in ROLES}
        former = os.environ.get("MILVUS_FORMER_ROOT_PASSWORD") or KNOWN_PASSWORD
        root = open_as_root(arguments.uri, os.environ["MILVUS_ROOT_PASSWORD"], arguments.ca, former)
        give_access(root, passwords, arguments.database)
        renew_passwords(root, passwords, arguments.uri, arguments.ca)
    except KeyError as missing:
        print(f"{missing.args[0]} is not set: it is the password of a user in Milvus", file=sys.stderr)
    except REFUSED as error:
        said = error.message if isinstance(error, MilvusException) else error.details()
        print(f"{arguments.uri}: {said}; check the address and MILVUS_ROOT_PASSWORD", file=sys.stderr)
    else:
        print(f"{arguments.uri}: {', '.join(ROLES)} can log in")
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
