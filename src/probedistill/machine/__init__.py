"""This process and its siblings."""

from .places import settle_user

settle_user()  # here, because this runs before any library asks for the user's name
