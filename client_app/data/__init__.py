"""The data sets a site can hold, one file each."""

from client_app.data.registry import load
from client_app.data.site_info import SiteInfo

__all__ = ["SiteInfo", "load"]
