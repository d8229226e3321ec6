"""Prints `.env.example`, generated from the settings of all services: `make env-example`."""

from analytics_service.app import AnalyticsSettings
from libs.common.config import Settings, env_example
from notification_service.app import NotificationSettings
from order_service.app import OrderSettings

CLASSES: tuple[type[Settings], ...] = (Settings, OrderSettings, NotificationSettings, AnalyticsSettings)

if __name__ == "__main__":
    print(env_example(CLASSES), end="")
