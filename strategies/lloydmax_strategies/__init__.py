"""The strategies that ship with lloydmax; each module is a plugin, registered like a third party's."""
