"""Would the tests notice? Small errors put into the package one by one: ``make mutate``."""
