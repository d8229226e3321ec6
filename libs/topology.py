"""The topology of the system: the services, their ports, and the subscribers of each event.

It does not import the services. Publishers read it to address events, and the RabbitMQ transport declares all queues
and bindings from it, so that no event is lost before a consumer's first start. A test compares `SUBSCRIPTIONS` with
the `HANDLERS` of each service.
"""

SERVICES = ("user", "product", "order", "notification", "analytics")

PACKAGES = {name: f"{name}_service" for name in SERVICES}
"""Service → its package, whose module `app` has `create_app`."""

PORT_OFFSETS = {name: offset for offset, name in enumerate(SERVICES, 1)}
"""Service → its port, as an offset from BASE_PORT."""

SUBSCRIPTIONS: dict[str, tuple[str, ...]] = {
    "user.created.v1": ("order",),
    "user.updated.v1": ("order", "notification"),
    "user.deleted.v1": ("order", "notification"),
    "product.created.v1": (),
    "product.updated.v1": (),
    "product.deleted.v1": (),
    "product.stock_adjusted.v1": (),
    "order.confirmed.v1": ("notification", "analytics"),
    "order.rejected.v1": ("product", "analytics"),
    "order.cancelled.v1": ("product", "analytics"),
    "order.shipped.v1": ("product", "analytics"),
    "order.delivered.v1": ("analytics",),
    "notification.sent.v1": ("analytics",),
    "notification.dead.v1": ("analytics",),
}
"""Event type → the services that subscribe to it. Types without a subscriber are published for other systems."""
