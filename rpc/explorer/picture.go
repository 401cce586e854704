package explorer

import (
	"crypto/sha256"
	"fmt"
	"html/template"
	"strings"
)

// Picture draws a name, so that it is known again at a glance: five by five fields, alike on both sides. It
// is no proof: pictures that look alike can be searched for. It is beside the name, and silent for who
// hears the page.
func Picture(name string) template.HTML {
	sum := sha256.Sum256([]byte(name))
	var path strings.Builder
	for i := range 15 {
		if sum[i]&1 == 0 {
			continue
		}
		x, y := i/5, i%5
		fmt.Fprintf(&path, "M%d %dh1v1h-1z", x, y)
		if x != 2 {
			fmt.Fprintf(&path, "M%d %dh1v1h-1z", 4-x, y)
		}
	}
	hue := (int(sum[30])<<8 | int(sum[31])) % 360
	// All of it is made of numbers.
	return template.HTML(fmt.Sprintf(`<svg class="picture" viewBox="0 0 5 5" aria-hidden="true" focusable="false"><path fill="hsl(%d 55%% 48%%)" d="%s"/></svg>`, hue, path.String()))
}
