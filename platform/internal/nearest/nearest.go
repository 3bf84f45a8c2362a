// Package nearest finds the name somebody probably meant.
package nearest

// Name gives the known name that is closest to the one that was written, and
// false if none is close enough to be meant.
func Name(written string, known []string) (string, bool) {
	best, bestDist := "", len(written)/3+2
	for _, k := range known {
		if d := distance(written, k); d < bestDist {
			best, bestDist = k, d
		}
	}
	return best, best != ""
}

// distance is Levenshtein's: how many letters must be added, dropped or changed.
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
