package client

import (
	"context"
	"time"
)

// SetSleep has a client call another function when it has to wait.
func (c *Client) SetSleep(sleep func(context.Context, time.Duration) error) { c.sleep = sleep }
