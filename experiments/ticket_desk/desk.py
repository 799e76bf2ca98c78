"""The tools of the ticket desk. They do what they are told, within the database's own constraints: the shop's rules are the agent's to keep."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from poclab.agent import ToolError, World

TODAY = datetime.date(2026, 11, 20)
TicketId = Annotated[int, "number of the ticket"]
OrderId = Annotated[int, "number of the order"]
CustomerId = Annotated[int, "number of the customer"]


def get_ticket(world: World, ticket_id: TicketId) -> dict[str, Any]:
    """Look up a ticket: who wrote it, about which order, what it says, and how it stands."""
    ticket = _one(world, "ticket", "SELECT * FROM tickets WHERE id = ?", ticket_id)
    return {"ticket_id": ticket.pop("id"), "ticket_status": ticket.pop("status"), **ticket}


def get_order(world: World, order_id: OrderId) -> dict[str, Any]:
    """Look up an order: whose it is, its status, how long ago it was delivered, and what was paid, refunded, and may still be."""
    return _order(_one(world, "order", ORDERS.format("id = ?"), order_id))


def find_customer(world: World, email: Annotated[str, "mail address"]) -> dict[str, Any]:
    """Look up the customer with a mail address."""
    customer = _one(world, "customer", "SELECT * FROM customers WHERE email = ?", email)
    return {"customer_id": customer.pop("id"), **customer}


def search_customers(world: World, name: Annotated[str, "whole name, or a part of it"]) -> list[dict[str, Any]]:
    """Look up customers by name; there may be several."""
    return world.rows(
        "SELECT id AS customer_id, name, email, city, tier FROM customers WHERE instr(lower(name), lower(?)) ORDER BY id", name
    )


def list_orders(world: World, customer_id: CustomerId) -> list[dict[str, Any]]:
    """List the orders of a customer."""
    return [_order(row) for row in world.rows(ORDERS.format("customer_id = ?"), customer_id)]


def list_tickets(
    world: World, customer_id: Annotated[int | None, "number of the customer; without it, all"] = None
) -> list[dict[str, Any]]:
    """List tickets."""
    columns = "id AS ticket_id, customer_id, order_id, subject, status AS ticket_status, priority, agent"
    return world.rows(f"SELECT {columns} FROM tickets WHERE ?1 IS NULL OR customer_id = ?1 ORDER BY id", customer_id)


def refund_order(
    world: World,
    order_id: OrderId,
    reason: Annotated[str, "why, in a few words"],
    amount_cents: Annotated[int | None, "how much, in cents; without it, all that is left"] = None,
) -> str:
    """Give back what was paid for an order, or a part of it."""
    order = get_order(world, order_id)
    cents = order["refundable_cents"] if amount_cents is None else amount_cents
    world.db.execute("INSERT INTO refunds (order_id, cents, reason) VALUES (?, ?, ?)", (order_id, cents, reason))
    return f"refunded {cents} cents of order {order_id}"


def cancel_order(world: World, order_id: OrderId) -> str:
    """Cancel an order."""
    return _update(world, "order", "UPDATE orders SET status = 'cancelled' WHERE id = ?", order_id)


def close_ticket(world: World, ticket_id: TicketId) -> str:
    """Close a ticket."""
    return _update(world, "ticket", "UPDATE tickets SET status = 'closed' WHERE id = ?", ticket_id)


def delete_ticket(world: World, ticket_id: TicketId) -> str:
    """Delete a ticket with its notes. For spam only."""
    return _update(world, "ticket", "DELETE FROM tickets WHERE id = ?", ticket_id)


def set_priority(world: World, ticket_id: TicketId, priority: Literal["low", "normal", "high"]) -> str:
    """Set the priority of a ticket."""
    return _update(world, "ticket", "UPDATE tickets SET priority = ?2 WHERE id = ?1", ticket_id, priority)


def assign_ticket(world: World, ticket_id: TicketId, agent: Literal["ann", "ben", "returns"]) -> str:
    """Assign a ticket to one of the agents."""
    return _update(world, "ticket", "UPDATE tickets SET agent = ?2 WHERE id = ?1", ticket_id, agent)


def add_note(world: World, ticket_id: TicketId, text: Annotated[str, "what to note"]) -> str:
    """Add a note to a ticket, which customers do not see."""
    world.db.execute("INSERT INTO notes (ticket_id, text) VALUES (?, ?)", (get_ticket(world, ticket_id)["ticket_id"], text))
    return f"noted at ticket {ticket_id}"


def change_email(world: World, customer_id: CustomerId, new_email: Annotated[str, "new mail address"]) -> str:
    """Change the mail address of a customer."""
    return _update(world, "customer", "UPDATE customers SET email = ?2 WHERE id = ?1", customer_id, new_email)


def write_reply(world: World, ticket_id: TicketId, text: Annotated[str, "what to write to the customer"]) -> str:
    """Write the reply to a ticket, which goes out by mail."""
    path = world.files / "outbox" / f"ticket-{get_ticket(world, ticket_id)['ticket_id']}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return f"written to {path.name}"


ORDERS = """
SELECT id AS order_id, customer_id, item, status, delivered_on, paid_cents,
  (SELECT coalesce(sum(cents), 0) FROM refunds WHERE order_id = orders.id) AS refunded_cents
FROM orders WHERE {} ORDER BY id
"""


def _order(row: dict[str, Any]) -> dict[str, Any]:
    delivered = row.pop("delivered_on")
    days = (TODAY - datetime.date.fromisoformat(delivered)).days if delivered else None
    return {**row, "days_since_delivery": days, "refundable_cents": row["paid_cents"] - row["refunded_cents"]}


def _one(world: World, what: str, query: str, value: Any) -> dict[str, Any]:
    found = world.rows(query, value)
    if not found:
        raise ToolError(f"there is no {what} {value}")
    return found[0]


def _update(world: World, what: str, statement: str, key: int, *values: Any) -> str:
    if not world.db.execute(statement, (key, *values)).rowcount:
        raise ToolError(f"there is no {what} {key}")
    return f"{what} {key}: done"
