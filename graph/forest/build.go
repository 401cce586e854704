package forest

// Link is the link of a key to its parent.
type Link struct {
	Parent int32  // None of a root
	Since  uint32 // height since which it is in force; of a root it means nothing
}

// Build gives a forest without keys as many keys as there are links, one of each, in time linear in their number. It
// returns false if the links form a cycle: then the forest cannot be used.
func (f *Forest) Build(links []Link) bool {
	all, ok := tours(links)
	if !ok {
		return false
	}
	for i := range links {
		f.places.Append(place{parent: links[i].Parent, leaf: None})
	}
	for len(all) > 0 {
		size := 1
		for size < len(all) && all[size].low > 0 {
			size++
		}
		if size > 1 { // a lone key has no node
			root := all[0].ref
			f.settle(f.pack(all[:size]), root)
		}
		all = all[size:]
	}
	return true
}

// tours returns the tours of all trees, one after the other; only a root's depth is 0. ok is false if the links form a
// cycle.
//
// To follow a link is a cache miss, and which link comes next is known only after it. So none is followed: all
// trees are gone through at once, level by level, in passes whose steps do not wait for each other.
func tours(links []Link) (tour []entry, ok bool) {
	keys, up, tour := levels(links)
	if len(keys) < len(links) {
		return nil, false
	}
	sizes := make([]int32, len(keys)) // of branches
	for i := len(keys) - 1; i >= 0; i-- {
		if sizes[i]++; up[i] != None {
			sizes[up[i]] += sizes[i]
		}
	}
	end := int32(0)
	next := sizes // of a key that has its place: where the next branch below it begins
	for i, e := range keys {
		from := &end
		if up[i] != None {
			from = &next[up[i]]
		}
		at := *from
		*from += sizes[i]
		tour[at], next[i] = e, at+1
	}
	return tour, true
}

// levels returns the entries of the keys that reach a root, with their depths, by depth; and of each the number, in that
// list, of its parent's, None of a root. Whatever is on a cycle, or below one, reaches none. space has room for as many
// entries as there are links.
func levels(links []Link) (keys []entry, up []int32, space []entry) {
	// children[first[n]:first[n+1]] are those of key n, in order of their numbers. The roots are those of a last one.
	top := len(links)
	first, children := make([]int32, top+3), make([]entry, len(links))
	number := func(n int32) int {
		if n == None {
			return top
		}
		return int(n)
	}
	for i := range links {
		first[number(links[i].Parent)+2]++
	}
	for n := range top + 2 {
		first[n+1] += first[n]
	}
	for n, l := range links {
		next := &first[number(l.Parent)+1] // it moves on from first[parent] to first[parent+1]
		children[*next] = entry{ref: int32(n), newest: l.Since}
		*next++
	}
	keys, up = make([]entry, 0, len(links)), make([]int32, 0, len(links))
	add := func(parent int, above, depth int32) {
		for _, e := range children[first[parent]:first[parent+1]] {
			if e.low = depth; above == None {
				e.newest = 0
			}
			keys, up = append(keys, e), append(up, above)
		}
	}
	add(top, None, 0)
	for i := 0; i < len(keys); i++ {
		add(int(keys[i].ref), int32(i), keys[i].low+1)
	}
	return keys, up, children
}
