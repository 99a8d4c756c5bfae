"""This process and its siblings."""

from .places import settle_user

settle_user()  # here, which is imported before any library that asks for the user
