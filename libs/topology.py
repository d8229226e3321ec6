"""The map of the system: which services there are, where each listens, and who subscribes to which event.

It is data and knows no service's code. Publishers read it to address events, and the RabbitMQ transport declares
every queue and binding from it, so that nothing is lost before a consumer's first start. A test compares
`SUBSCRIPTIONS` with the `HANDLERS` of each service.
"""

SERVICES = ("user", "product", "order", "notification", "analytics")

PACKAGES = {name: f"{name}_service" for name in SERVICES}
"""The package of each service; its `app` has `create_app`."""

PORT_OFFSETS = {name: offset for offset, name in enumerate(SERVICES, 1)}
"""A service listens on BASE_PORT plus this."""

SUBSCRIPTIONS: dict[str, tuple[str, ...]] = {
    "user.created.v1": ("order",),
    "user.updated.v1": ("order",),
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
"""Event type → the services that react to it; an empty tuple is published for others to use."""
