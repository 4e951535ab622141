"""The data sets that a site can load: one module with a function ``load`` for each."""

from client_app.data.registry import load
from client_app.data.site_info import SiteInfo

__all__ = ["SiteInfo", "load"]
