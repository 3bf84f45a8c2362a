package config

import "fmt"

// nearest gives "; did you mean x?" for the known name closest to what was
// written, or nothing if none is close.
func nearest(name string, known []leaf, nameOf func(leaf) string) string {
	best, bestDist := "", len(name)/3+2
	for _, l := range known {
		if d := distance(name, nameOf(l)); d < bestDist {
			best, bestDist = nameOf(l), d
		}
	}
	if best == "" {
		return "; --help lists what there is"
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			d := diagonal
			if a[i-1] != b[j-1] {
				d++
			}
			diagonal = row[j]
			row[j] = min(d, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
